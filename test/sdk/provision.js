// A device that registers itself with the official SDK, and prints what it got.
// Usage: node provision.js mqtt|ws|amqp|amqpws|http HOST ID-SCOPE REGISTRATION-ID CA-FILE x509 FOLDER [PAYLOAD]
//        node provision.js mqtt|ws|amqp|amqpws|http HOST ID-SCOPE REGISTRATION-ID CA-FILE key BASE64 [PAYLOAD]
'use strict';
const fs = require('fs');
const path = require('path');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Mqtt, MqttWs } = require('azure-iot-provisioning-device-mqtt');
const { Amqp, AmqpWs } = require('azure-iot-provisioning-device-amqp');
const { Http } = require('azure-iot-provisioning-device-http');
const { X509Security } = require('azure-iot-security-x509');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');

const [door, host, scope, id, ca, kind, secret, payload] = process.argv.slice(2);
const Transport = { mqtt: Mqtt, ws: MqttWs, amqp: Amqp, amqpws: AmqpWs, http: Http }[door];

async function main() {
  const security = kind === 'key'
    ? new SymmetricKeySecurityClient(id, secret)
    : new X509Security(id, {
        cert: fs.readFileSync(path.join(secret, 'chain.pem'), 'utf8'),
        key: fs.readFileSync(path.join(secret, 'device.key'), 'utf8'),
      });
  const client = ProvisioningDeviceClient.create(host, scope, new Transport(), security);
  if (payload) client.setProvisioningPayload(JSON.parse(payload));
  const result = await client.register();
  console.log('result: ' + JSON.stringify(result));
}

main().then(() => process.exit(0), (err) => {
  console.log(`${err.name || err.condition}: ${err.message || err.description} ${JSON.stringify(err.result)} ${err.responseBody || ''}`);
  process.exit(1);
});
