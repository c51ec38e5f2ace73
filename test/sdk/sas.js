// A device with a symmetric key. Usage: node sas.js CONNECTION-STRING CA-FILE
'use strict';
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const [connectionString, ca] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(connectionString, Mqtt);
  await client.setOptions({ ca });
  await client.open();
  await client.sendEvent(new Message('hello'));
  console.log('sent');
  await client.close();
}

main().catch((err) => {
  console.log(`${err.name}: ${err.message}`);
  process.exit(1);
});
